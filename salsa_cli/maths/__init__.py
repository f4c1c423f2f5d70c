"""Pure functions of tensors: every formula of the package, named as the field names it."""
