-- The row that says which store this is.
insert into private.store values ($store_id, $version, 0, $now)
