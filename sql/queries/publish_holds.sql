-- Copies every hold, as the state store has it.
insert into holds by name
select *
from read_json(
    $paths,
    format = 'newline_delimited',
    columns = {
        hold_id: 'VARCHAR',
        source: 'VARCHAR',
        scope: 'VARCHAR',
        opened_at: 'TIMESTAMPTZ',
        installs: 'BIGINT',
        share: 'DOUBLE',
        status: 'VARCHAR',
        decided_at: 'TIMESTAMPTZ'
    }
)
