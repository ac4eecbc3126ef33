package audit

// Check says what is wrong with the filter, naming the field.
func (f Filter) Check() error {
	_, err := f.args()
	return err
}
