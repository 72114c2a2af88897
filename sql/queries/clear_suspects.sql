-- Any sighting clears a suspect.
update installs
set missing_since = null
where
    source = $source
    and missing_since is not null
    and install_id in (select id from staged where kind = 'install' and not gone)
