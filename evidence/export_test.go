package evidence

// AnswerOf computes the state of a finding that is in no table.
var AnswerOf = (*Finding).answer
