-- Slowly changing dimension, type 2: every revision with the time in which it was what we knew.
create or replace view install_history as
select
    * exclude (valid_to),
    last_changed_at as valid_from,
    valid_to,
    false as is_current
from install_revisions
union all by name
select
    *,
    last_changed_at as valid_from,
    null::timestamptz as valid_to,
    true as is_current
from installs;

comment on view install_history is 'Every revision of every install, valid in [valid_from, valid_to); valid_to is null for the current one';
comment on column install_history.valid_from is 'The commit since which it was what we knew';
comment on column install_history.valid_to is 'The commit that superseded it; null for the current revision';
comment on column install_history.is_current is 'It is what we know now';
