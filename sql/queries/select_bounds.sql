-- Ids that cut the installs we know of a source into ranges of about the same length.
with numbered as (
    select
        install_id as id,
        row_number() over (order by install_id) as place,
        count(*) over () as length
    from installs
    where source = $source
)
select id
from numbered
where place > 1 and (place - 1) % greatest(1, cast(ceil(length / $ranges) as bigint)) = 0
order by id
