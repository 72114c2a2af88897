-- Which store this is, and its newest commit.
select store_id, schema_version, commit_number, committed_at from private.store
