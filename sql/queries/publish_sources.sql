-- The sources with their freshness, and how many active installs this copy has of each.
insert into sources by name
select
    listed.*,
    (
        select count(*) from installs
        where installs.source = listed.source and installs.state = 'active'
    ) as active_installs
from read_json(
    $paths,
    format = 'newline_delimited',
    columns = {
        source: 'VARCHAR',
        dialect: 'VARCHAR',
        last_synced_at: 'TIMESTAMPTZ',
        last_full_at: 'TIMESTAMPTZ',
        published_at: 'TIMESTAMPTZ'
    }
) as listed
