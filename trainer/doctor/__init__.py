"""`--stage=doctor`: what a run needs, checked before it starts; one line a check, and where one fails, what mends it.

The modules import nothing up front that needs more than the standard library, and TensorFlow not before the checks of Keras
and of the processor have passed, so that a broken environment is described instead of ending in a traceback.
"""
