"""What is known: generated networks, their measurements, and the instruments that take them.

``builder`` writes ONNX graphs without weights, ``families`` samples networks with it, ``weights`` fills and
strips their data, ``quantize`` makes an INT8 copy, ``profilers`` measures, ``store`` keeps.
"""
