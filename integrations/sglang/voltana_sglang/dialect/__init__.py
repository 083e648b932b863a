"""SGLang's dialect of HTTP: all that the router and the calibration must know of SGLang."""
