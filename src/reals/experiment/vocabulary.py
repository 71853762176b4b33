"""What can be printed: the metrics that tables know, by the names they print, and the characters that LaTeX can spell."""

METRIC_NAMES = {
    "fid": "FID",
    "sfid": "sFID",
    "is": "IS",
    "precision": "Precision",
    "recall": "Recall",
    "kid": "KID",
    "rfid": "rFID",
}
"""Of metrics on the features of a network, which is named beside them."""

PLAIN_NAMES = {
    "fid_second": "FID (second judge)",
    "sc_crop": "Crop",
    "sc_flip": "Flip",
    "sc_blur": "Gaussian blur",
    "sc_grayscale": "Grayscale",
    "sc_all": "All",
    "psnr": "PSNR (dB)",
    "ssim_paper": "SSIM",
    "ssim": "SSIM (standard)",
    "lpips": "LPIPS",
    "optimizer": "Optimizer",
    "lr": "Learning rate",
    "schedule": "Schedule",
    "min_lr": "Final learning rate",
    "batch": "Batch size",
    "epochs": "Epochs",
}

METRICS = {
    "evaluation": ("fid", "fid_second", "sfid", "is", "precision", "recall", "kid"),
    "autoencoder": (
        "rfid", "psnr", "ssim_paper", "ssim", "lpips", "sc_crop", "sc_flip", "sc_blur", "sc_grayscale", "sc_all",
    ),
    "settings": ("optimizer", "lr", "schedule", "min_lr", "batch", "epochs"),
}  # fmt: skip
"""What a table of each source can show."""

SETTINGS_ROWS = ("autoencoder", "transformer")
"""What the rows of a table of settings may name as their source."""
