/* velo--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION velo" to load this file. \quit

GRANT USAGE ON SCHEMA velo TO PUBLIC;

-- ---------------------------------------------------------------- streams


-- ---------------------------------------------------------------- windows


-- ---------------------------------------------------------------- queries: tables


-- ---------------------------------------------------------------- queries: functions


-- ---------------------------------------------------------------- views

