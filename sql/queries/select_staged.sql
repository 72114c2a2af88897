-- Of each kind of object that was answered: when the newest answer was asked for, and whether some
-- answered 404.
select kind, max(observed_at), bool_or(gone)
from staged
group by kind
