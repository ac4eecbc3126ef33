package good_test

import (
	"testing"

	"example.com/fixture/good"
	"example.com/fixture/help"
)

func TestAdds(t *testing.T) {
	if got := good.Add(1, 2); got != 3 {
		t.Errorf("got %d", got)
	}
}

func TestAddsByAHelper(t *testing.T) { help.Equal(t, good.Add(1, 2), 3) }

type bench struct{ t *testing.T }

func (b bench) add(x, y, want int) {
	if good.Add(x, y) != want {
		b.t.FailNow()
	}
}

func TestAddsOnABench(t *testing.T) { bench{t}.add(1, 2, 3) }

var sums = map[string]func(t *testing.T){
	"none": func(t *testing.T) { help.Equal(t, good.Add(0, 0), 0) },
}

func TestAddsInEverySubtest(t *testing.T) {
	t.Run("skipped", func(t *testing.T) { t.Skip("it is one of several") })
	for name, do := range sums {
		t.Run(name, do)
	}
}
