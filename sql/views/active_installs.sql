-- The installs that customers have now.
create or replace view active_installs as
select * from installs where state = 'active';

comment on view active_installs is 'Installs that customers have now';
