"""``python scripts/export.py --model resnet18``: the same program as ``saliport export``."""

from exporter.cli import export_command

if __name__ == "__main__":
    export_command(prog_name="export.py")
