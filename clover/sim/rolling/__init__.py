"""A fleet that is changed under load: rolled by the product, or all at once as the original does."""
