-- Loads the new revisions of integrations that the plan wrote.
create or replace temp table changed_integrations as
select *
from read_json(
    $paths,
    format = 'newline_delimited',
    columns = {
        source: 'VARCHAR',
        integration_id: 'VARCHAR',
        name: 'VARCHAR',
        url: 'VARCHAR',
        description: 'VARCHAR',
        slug: 'VARCHAR',
        publisher: 'VARCHAR',
        current_version: 'VARCHAR',
        visibility: 'VARCHAR',
        trust_tier: 'VARCHAR',
        workspace_id: 'VARCHAR',
        created_at: 'TIMESTAMPTZ',
        updated_at: 'TIMESTAMPTZ',
        deleted_at: 'TIMESTAMPTZ',
        state: 'VARCHAR',
        deletion_inferred: 'BOOLEAN',
        revision: 'INTEGER',
        first_seen_at: 'TIMESTAMPTZ',
        last_changed_at: 'TIMESTAMPTZ',
        row_hash: 'VARCHAR',
        payload: 'JSON'
    }
)
