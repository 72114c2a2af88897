-- Copies every run, as the state store has it.
insert into sync_runs by name
select *
from read_json(
    $paths,
    format = 'newline_delimited',
    columns = {
        run_id: 'VARCHAR',
        source: 'VARCHAR',
        scope: 'VARCHAR',
        mode: 'VARCHAR',
        outcome: 'VARCHAR',
        certificate: 'VARCHAR',
        evidence: 'JSON',
        started_at: 'TIMESTAMPTZ',
        finished_at: 'TIMESTAMPTZ',
        requests: 'BIGINT',
        pages: 'BIGINT',
        seen: 'BIGINT',
        total: 'BIGINT',
        created: 'BIGINT',
        upgraded: 'BIGINT',
        updated: 'BIGINT',
        deleted: 'BIGINT',
        restored: 'BIGINT',
        purged: 'BIGINT',
        held: 'BIGINT',
        suspects: 'BIGINT',
        error: 'VARCHAR'
    }
)
