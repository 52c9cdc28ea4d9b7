SELECT * FROM decode_fuzz(:seed, :cases);
