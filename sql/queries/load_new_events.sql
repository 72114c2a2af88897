-- Loads the new events that the plan wrote.
create or replace temp table new_events as
select *
from read_json(
    $paths,
    format = 'newline_delimited',
    columns = {
        sequence: 'BIGINT',
        event_id: 'VARCHAR',
        type: 'VARCHAR',
        source: 'VARCHAR',
        integration_id: 'VARCHAR',
        install_id: 'VARCHAR',
        revision: 'INTEGER',
        occurred_at: 'TIMESTAMPTZ',
        detected_at: 'TIMESTAMPTZ',
        deletion_inferred: 'BOOLEAN',
        baseline: 'BOOLEAN',
        changed_fields: 'VARCHAR[]',
        before: 'JSON',
        after: 'JSON',
        run_id: 'VARCHAR'
    }
)
