-- Which schema the store has.
select schema_version from private.store
