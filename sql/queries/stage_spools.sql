-- Loads spooled rows and 404s: one typed read of newline-delimited JSON.
create or replace temp table spooled as
select *
from read_json(
    $paths,
    format = 'newline_delimited',
    columns = {
        kind: 'VARCHAR',
        scope: 'VARCHAR',
        id: 'VARCHAR',
        observed_at: 'TIMESTAMPTZ',
        ordinal: 'BIGINT',
        digest: 'VARCHAR',
        "row": 'JSON'
    }
)
