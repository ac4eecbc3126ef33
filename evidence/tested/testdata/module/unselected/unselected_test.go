package unselected

import (
	"flag"
	"testing"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.run", "^TestOfAnotherName$"); err != nil {
		panic(err)
	}
	m.Run()
}

func TestIsNeverSelected(t *testing.T) {
	if len(t.Name()) == 0 {
		t.Error("it is not")
	}
}
