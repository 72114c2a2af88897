-- Loads the order of walked listings: the place of each id, from 0 (newest).
create or replace temp table placed as
select *
from read_json(
    $paths,
    format = 'newline_delimited',
    columns = {scope: 'VARCHAR', id: 'VARCHAR', place: 'BIGINT', length: 'BIGINT'}
)
