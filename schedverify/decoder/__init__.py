"""Decoder models by their shape: FLOPs, bytes and ticks by published formulas, and the layers that they make."""

from schedverify.decoder.device import Device
from schedverify.decoder.modelling import decoder_model, faults_of
from schedverify.decoder.shape import Decoder
from schedverify.decoder.training import DTYPES, RECOMPUTE, Training

__all__ = ["DTYPES", "RECOMPUTE", "Decoder", "Device", "Training", "decoder_model", "faults_of"]
