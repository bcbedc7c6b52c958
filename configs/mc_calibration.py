"""Monte Carlo dropout: does it make the probabilities of an image classifier more honest?

    python -m experiments.main --config=configs/mc_calibration.py

It trains the ResNet of image_classification.py on 1,000 images of Fashion-MNIST, and measures the
probabilities on test images, clean and shifted (rotated, noisy, blurred). "One pass" drops nothing.
"Passes" are the mean probabilities of 16 passes with dropout.

The papers predict:

- All networks are less calibrated on shifted images (Ovadia et al., 2019).
- Dropout with passes has a better likelihood than a network without dropout, on clean and more so
  on shifted images (Gal & Ghahramani, 2016; Ovadia et al., 2019).
- Passes have a better likelihood than one pass of the same network (Gal & Ghahramani, 2016).

The results took 9 min on 2 CPU cores, beside other programs. Expected are these means over
5 seeds, of one pass -> of passes:

                            NLL: clean      shifted         ECE, %: clean   shifted
    none                    0.742           1.498           10.3            20.4
    Dropout at 0.1          0.653 -> 0.619  1.286 -> 1.207  8.0 -> 6.3      17.1 -> 13.9
    SpatialDropout2D at 0.3 0.583 -> 0.571  1.047 -> 1.004  3.9 -> 1.8      9.8 -> 6.5
    DropBlock at 0.1        0.647 -> 0.607  1.266 -> 1.175  7.5 -> 4.7      16.3 -> 11.9
    DropPath row at 0.3     0.613 -> 0.589  1.201 -> 1.127  5.5 -> 2.8      13.5 -> 10.3

All predictions hold.

`:smoke` (20 s) only tests that all parts work, on scikit-learn's digits. `:gpu` is a wide
ResNet on 55,000 images, for a GPU. It has not been run.
"""

from ml_collections import ConfigDict

from configs import image_classification
from experiments import checks

VARIANTS = ("cpu", "gpu", "smoke")


def get_config(variant: str = "cpu") -> ConfigDict:
    """Returns the setting of a variant: "cpu" (the default), "gpu" or "smoke"."""
    checks.variant("mc_calibration", variant, VARIANTS)
    config = image_classification.get_config(variant)
    config.name = config.name.replace("image_classification", "mc_calibration")
    config.task = "calibration"
    config.regularizers = ("none", "Dropout", "SpatialDropout2D", "DropBlock", "DropPath row")
    config.rates = (0.1, 0.3, 0.5)
    config.own_rates = ConfigDict()
    config.conditions = ConfigDict()

    config.passes = 16
    config.data.measured_images = 2000  # the first of the test part; 0 takes all

    if variant == "smoke":
        config.regularizers = ("none", "Dropout")
        config.rates = (0.1,)
        config.passes = 2
        config.data.measured_images = 50
    elif variant == "gpu":
        config.passes = 64
        config.data.train_images = 55_000
        config.data.measured_images = 0
    return config
