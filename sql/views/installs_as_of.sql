-- What was known of every install at a moment.
create or replace macro installs_as_of(ts) as table
select * exclude (valid_from, valid_to, is_current)
from install_history
where valid_from <= ts and (valid_to is null or ts < valid_to);

comment on macro table installs_as_of is 'installs as they were known at ts';
