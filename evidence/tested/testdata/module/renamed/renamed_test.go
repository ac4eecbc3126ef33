package renamed

import "testing"

func TestSumOfTwoNumbers(t *testing.T) {
	if len(t.Name()) == 0 {
		t.Error("it is not")
	}
}
