-- readable-from: 0003
-- Stands in for the migration of this number that is made elsewhere.
create table stand_in ();
drop table stand_in;
