"""Operations: metrics, alerts, manifests, units, as an operator meets them."""
