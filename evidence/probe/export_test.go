package probe

// Breaches has a request for each rule.
var Breaches = breaches
