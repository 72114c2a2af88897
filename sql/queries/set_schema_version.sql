-- After a migration.
update private.store set schema_version = $version
