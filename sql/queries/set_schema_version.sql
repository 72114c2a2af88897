-- After a migration.
update private.store set schema_version = $version, written_by = $written_by
