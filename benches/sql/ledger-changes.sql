-- Changes of the ledger: 60 % updates, 25 % inserts, 15 % deletes, in transactions of 1 to 10,000 of them (as many
-- small ones as large ones). The same at every run; psql -v changes=N says how many.

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
  inserts integer;
  deletes integer;
  start bigint;
BEGIN
  SELECT min(id), max(id) INTO first, last FROM ledger;
  PERFORM setseed(0.5);
  WHILE done < wanted LOOP
    size := least(ceil(10 ^ (random() * 4)), wanted - done);
    updates := round(size * 0.6);
    inserts := round(size * 0.25);
    deletes := size - updates - inserts;
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
