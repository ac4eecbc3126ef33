package passing

import (
	"errors"
	"testing"

	"example.com/fixture/help"
)

func TestHoldsNothing(*testing.T) {}

func TestOnlySays(t *testing.T) { help.Say(t, "all is well") }

func TestNeverLooks(t *testing.T) {
	if false {
		t.Error("never")
	}
}

const careful = 1 > 2

func TestIsNotCareful(t *testing.T) {
	err := errors.New("x")
	if careful && err != nil {
		help.Equal(t, err.Error(), "x")
	} else if !careful || err == nil {
		return
	}
	t.Fatal("never")
}

func TestRangesOverNothing(t *testing.T) {
	for _, n := range []int{} {
		help.Equal(t, n, 0)
	}
}

func TestCallsNobody(t *testing.T) {
	_ = func() { t.Fail() }
}

func TestErrorOfSomethingElse(t *testing.T) {
	t.Log(errors.New("x").Error())
}
