// Package good has tests that count.
package good

func Add(a, b int) int { return a + b }
