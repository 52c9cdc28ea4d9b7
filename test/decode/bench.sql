SELECT * FROM decode_bench('trades');
