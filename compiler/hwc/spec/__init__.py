"""What the user wrote: model, target, price and project files, parsed once, strictly, into frozen records."""
