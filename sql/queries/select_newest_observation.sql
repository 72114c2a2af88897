-- When the newest staged answer was asked for.
select max(observed_at) from staged
