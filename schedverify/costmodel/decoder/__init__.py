"""Decoder models by their shape: FLOPs, bytes and ticks by published formulas, and the layers that they make."""

from schedverify.costmodel.decoder.configuration import DTYPES, RECOMPUTE, Decoder, Training
from schedverify.costmodel.decoder.device import DECODER_UNIT, Device
from schedverify.costmodel.decoder.layers import decoder_model, faults_of

__all__ = ["DECODER_UNIT", "DTYPES", "RECOMPUTE", "Decoder", "Device", "Training", "decoder_model", "faults_of"]
