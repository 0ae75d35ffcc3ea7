-- Changes of the ledger: 60 % updates, 25 % inserts, 15 % deletes, in transactions of 1 to 10,000 of them (as many
-- small ones as large ones). One in fifty updates gives a row a new key, and a note that says so. The same at every run;
-- psql -v changes=N says how many.

SET TIME ZONE 'UTC';
SELECT set_config('bench.changes', :'changes', false);

DO $$
DECLARE
  wanted bigint := current_setting('bench.changes')::bigint;
  first bigint;
  last bigint;
  done bigint := 0;
  size integer;
  updates integer;
  moves integer;
  inserts integer;
  deletes integer;
  start bigint;
BEGIN
  SELECT min(id), max(id) INTO first, last FROM ledger;
  PERFORM setseed(0.5);
  -- All keys from first to last are taken, always: rows are deleted and get new keys at the one end, and come in at the
  -- other.
  WHILE done < wanted LOOP
    size := least(ceil(10 ^ (random() * 4)), wanted - done);
    updates := round(size * 0.6);
    moves := floor(updates / 50.0 + random());
    updates := updates - moves;
    inserts := round(size * 0.25);
    deletes := size - updates - moves - inserts;
    UPDATE ledger SET id = id - first + last + 1, note = 'has another key' WHERE id >= first AND id < first + moves;
    first := first + moves;
    last := last + moves;
    start := first + floor(random() * (last - first - updates));
    UPDATE ledger SET amount = amount + 0.01, status = 'changed' WHERE id >= start AND id < start + updates;
    INSERT INTO ledger
    SELECT n, n % 5000, n / 100.0, 'entered late', timestamptz '2025-01-01 00:00:00+00' + n * interval '1 second', 'new'
    FROM generate_series(last + 1, last + inserts) AS s(n);
    DELETE FROM ledger WHERE id >= first AND id < first + deletes;
    last := last + inserts;
    first := first + deletes;
    done := done + size;
    COMMIT;
  END LOOP;
END $$;
