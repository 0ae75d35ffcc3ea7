-- Taxi rides, shaped as the published benchmark of a peer has them: 29 columns, of which 15 are `numeric` without
-- precision. Synthetic and the same at every run; psql -v rows=N says how many.

SET TIME ZONE 'UTC';
SELECT setseed(0.25);

DROP TABLE IF EXISTS trips;
CREATE TABLE trips (
  id bigserial PRIMARY KEY,
  cab_type_id integer,
  vendor_id integer,
  pickup_datetime timestamp,
  dropoff_datetime timestamp,
  store_and_fwd_flag boolean,
  rate_code_id integer,
  pickup_longitude numeric,
  pickup_latitude numeric,
  dropoff_longitude numeric,
  dropoff_latitude numeric,
  passenger_count integer,
  trip_distance numeric,
  fare_amount numeric,
  extra numeric,
  mta_tax numeric,
  tip_amount numeric,
  tolls_amount numeric,
  ehail_fee numeric,
  improvement_surcharge numeric,
  congestion_surcharge numeric,
  airport_fee numeric,
  total_amount numeric,
  payment_type integer,
  trip_type integer,
  pickup_nyct2010_gid integer,
  dropoff_nyct2010_gid integer,
  pickup_location_id integer,
  dropoff_location_id integer
);

-- Two rides begin every second. Where a ride starts and how long it is decides its place, price and duration, as
-- in the real rows; the place of the drop-off is known for every fourth ride only.
INSERT INTO trips
SELECT n,
       1 + n % 2,
       1 + n % 3,
       pickup,
       pickup + make_interval(secs => 60 + length * 3000),
       n % 97 = 0,
       1 + n % 6,
       round((-73.9 - length / 10)::numeric, 6),
       round((40.7 + place / 10)::numeric, 6),
       CASE n % 4 WHEN 0 THEN round((-73.9 - place / 10)::numeric, 6) END,
       CASE n % 4 WHEN 0 THEN round((40.7 + length / 10)::numeric, 6) END,
       1 + n % 5,
       round((length * 12)::numeric, 2),
       round((3 + length * 50)::numeric, 2),
       0.5,
       0.5,
       round((place * 10)::numeric, 2),
       CASE n % 10 WHEN 0 THEN 6.55 ELSE 0 END,
       NULL,
       0.3,
       2.5,
       CASE n % 20 WHEN 0 THEN 1.25 END,
       round((7 + length * 60)::numeric, 2),
       1 + n % 4,
       CASE n % 3 WHEN 0 THEN 1 END,
       (length * 2000)::integer,
       (place * 2000)::integer,
       (length * 265)::integer,
       (place * 265)::integer
FROM (
  SELECT n, timestamp '2015-01-01 00:00:00' + n * interval '500 milliseconds' AS pickup,
         random() AS length, random() AS place
  FROM generate_series(1, :rows) AS n
) AS rides;

SELECT setval('trips_id_seq', :rows);
VACUUM (FREEZE, ANALYZE) trips;
