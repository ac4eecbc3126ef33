package tested

var Read = read
