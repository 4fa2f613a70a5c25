"""Documents over saved results of analyses, and each analysis' small table; nothing here touches a model."""
