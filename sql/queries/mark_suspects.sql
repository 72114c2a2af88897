-- Absent from a certified walk: since when.
update installs
set missing_since = $commit_at
where source = $source and install_id in (select unnest($ids))
