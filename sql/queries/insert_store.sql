-- The row that says which store this is.
insert into private.store (store_id, schema_version, commit_number, committed_at)
values ($store_id, $version, 0, $now)
