"""What a variant will cost and take, told before and after it is measured."""
