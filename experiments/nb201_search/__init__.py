"""NAS-Bench-201 on devices known from twenty measurements, the measurements that verify included."""
