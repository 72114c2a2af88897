-- Keeps what a changed install was until this commit.
insert into install_revisions
select kept.*, $commit_at as valid_to
from installs as kept
semi join changed_installs as changed
    on changed.source = kept.source and changed.install_id = kept.install_id
