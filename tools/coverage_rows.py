"""The rows of docs/coverage.md: what MPSGraph calls a thing, and what Niello calls it.

A row is `section | MPSGraph's name | Niello's names`. A Niello name is a function of `niello`, or a
dotted name such as `Graph.run`; `function=operation` says which operation of the registry it makes
where the names differ; what stands in brackets is a remark.
"""

from __future__ import annotations

# ruff: noqa: E501 (a table)

ROWS = """
A1 Objects and data | MPSGraph | Graph
A1 Objects and data | MPSGraphTensor | Tensor
A1 Objects and data | MPSGraphOperation, MPSGraphObject | Operation
A1 Objects and data | MPSGraphVariableOp | Variable
A1 Objects and data | MPSGraphType, MPSGraphShapedType | TensorType
A1 Objects and data | MPSGraphTensorData | TensorData
A1 Objects and data | MPSGraphDevice | device, devices
A1 Objects and data | MPSDataType | DType (float64, complex128 and float8 in addition; no 2-bit and unorm types)
A1 Objects and data | MPSGraphTensorNamedDataLayout | (strings: NCHW, NHWC, OIHW, HWIO, NCDHW, NDHWC, ...)
A1 Objects and data | MPSGraphPaddingStyle | (padding=: pairs, "valid", "same", "same_lower")
A1 Objects and data | MPSGraphPaddingMode | pad
A1 Objects and data | MPSGraphReductionMode | stencil
A2 Execution | run... | Graph.run
A2 Execution | runAsync... | Graph.run_async
A2 Execution | encodeToCommandBuffer | Graph.encode, CommandBuffer.encode
A2 Execution | compileWithDevice | Graph.compile
A2 Execution | MPSGraphExecutionDescriptor | Graph.run_async, CommandBuffer.add_completed_handler, SharedEvent
A2 Execution | MPSGraphCompilationDescriptor | CompileOptions
A2 Execution | callables | call
A2 Execution | MPSGraphReducedPrecisionFastMath | CompileOptions (tf32=, autocast=)
A2 Execution | MPSGraphExecutable | Executable
A2 Execution | specializeWithDevice | Graph.compile (one executable for each set of types)
A2 Execution | getOutputTypesWithDevice | Executable.output_types
A2 Execution | run, runAsync, encode of an executable | Executable.run, Executable.run_async, Executable.encode
A2 Execution | serializeToMPSGraphPackage | Executable.save, save
A2 Execution | initWithMPSGraphPackage | load
A2 Execution | initWithCoreMLPackage | load (front ends: docs/onnx.md)
A2 Execution | gradientForPrimaryTensor | Graph.gradients
A3 Control flow | controlDependencyWithOperations | Graph.control_dependencies
A3 Control flow | ifWithPredicateTensor | if_=if
A3 Control flow | whileWithInitialInputs | while_=loop
A3 Control flow | forLoopWith... | for_=loop, scan=loop
A3 Control flow | callSymbolName | call
A3 Control flow | placeholder | Graph.placeholder
A3 Control flow | constant (also of complex parts) | Graph.constant
A3 Control flow | variable, variableFromTensor | Graph.variable
A3 Control flow | readVariable | Variable.read
A3 Control flow | assignVariable | Variable.assign
A4 Arithmetic | identity | identity
A4 Arithmetic | exponent | exp
A4 Arithmetic | exponentBase2 | exp2
A4 Arithmetic | exponentBase10 | exp10
A4 Arithmetic | logarithm | log
A4 Arithmetic | logarithmBase2 | log2
A4 Arithmetic | logarithmBase10 | log10
A4 Arithmetic | square | square
A4 Arithmetic | squareRoot | sqrt
A4 Arithmetic | reciprocal | reciprocal
A4 Arithmetic | reciprocalSquareRoot, reverseSquareRoot | rsqrt
A4 Arithmetic | absolute | absolute
A4 Arithmetic | negative | negative
A4 Arithmetic | sign | sign
A4 Arithmetic | signbit | signbit
A4 Arithmetic | absoluteSquare | absolute_square
A4 Arithmetic | conjugate | conj=conjugate
A4 Arithmetic | ceil | ceil
A4 Arithmetic | floor | floor
A4 Arithmetic | round | round
A4 Arithmetic | rint | rint
A4 Arithmetic | truncate | trunc
A4 Arithmetic | sin | sin
A4 Arithmetic | cos | cos
A4 Arithmetic | tan | tan
A4 Arithmetic | sinh | sinh
A4 Arithmetic | cosh | cosh
A4 Arithmetic | tanh | tanh
A4 Arithmetic | asin | asin
A4 Arithmetic | acos | acos
A4 Arithmetic | atan | atan
A4 Arithmetic | asinh | asinh
A4 Arithmetic | acosh | acosh
A4 Arithmetic | atanh | atanh
A4 Arithmetic | erf | erf
A4 Arithmetic | not | logical_not
A4 Arithmetic | isInfinite | is_inf
A4 Arithmetic | isFinite | is_finite
A4 Arithmetic | isNaN | is_nan
A4 Arithmetic | bitwiseNOT | bitwise_not
A4 Arithmetic | bitwisePopulationCount | popcount
A4 Arithmetic | addition | add
A4 Arithmetic | subtraction | subtract
A4 Arithmetic | multiplication | multiply
A4 Arithmetic | division | divide
A4 Arithmetic | divisionNoNaN | divide_no_nan
A4 Arithmetic | modulo | modulo
A4 Arithmetic | floorModulo | floor_modulo
A4 Arithmetic | power | power
A4 Arithmetic | minimum | fmin
A4 Arithmetic | maximum | fmax
A4 Arithmetic | minimumWithNaNPropagation | minimum
A4 Arithmetic | maximumWithNaNPropagation | maximum
A4 Arithmetic | equal | equal
A4 Arithmetic | notEqual | not_equal
A4 Arithmetic | lessThan | less
A4 Arithmetic | lessThanOrEqualTo | less_equal
A4 Arithmetic | greaterThan | greater
A4 Arithmetic | greaterThanOrEqualTo | greater_equal
A4 Arithmetic | logicalAND | logical_and
A4 Arithmetic | logicalOR | logical_or
A4 Arithmetic | logicalNAND | logical_nand
A4 Arithmetic | logicalNOR | logical_nor
A4 Arithmetic | logicalXOR | logical_xor
A4 Arithmetic | logicalXNOR | logical_xnor
A4 Arithmetic | atan2 | atan2
A4 Arithmetic | bitwiseAND | bitwise_and
A4 Arithmetic | bitwiseOR | bitwise_or
A4 Arithmetic | bitwiseXOR | bitwise_xor
A4 Arithmetic | bitwiseLeftShift | bitwise_left_shift
A4 Arithmetic | bitwiseRightShift | bitwise_right_shift
A4 Arithmetic | select | select, where=select
A4 Arithmetic | clamp | clamp
A4 Arithmetic | realPartOfTensor | real
A4 Arithmetic | imaginaryPartOfTensor | imag
A4 Arithmetic | complexTensor | complex
A4 Arithmetic | planarTensor | planar=concat
A5 Activations | reLU and gradient | relu
A5 Activations | sigmoid and gradient | sigmoid
A5 Activations | softMax and gradient | softmax
A5 Activations | leakyReLU and gradient | leaky_relu, prelu
A6 Convolution | convolution2D | conv2d=convolution
A6 Convolution | convolution2D data gradient | conv2d_data_gradient=convolution_data_gradient
A6 Convolution | convolution2D weights gradient | conv2d_weights_gradient=convolution_weights_gradient
A6 Convolution | convolution3D | conv3d=convolution
A6 Convolution | convolution3D gradients | conv3d_data_gradient=convolution_data_gradient, conv3d_weights_gradient=convolution_weights_gradient
A6 Convolution | convolutionTranspose2D | conv_transpose2d=convolution_data_gradient
A6 Convolution | convolutionTranspose2D gradients | conv_transpose2d_data_gradient=convolution, conv_transpose2d_weights_gradient=convolution_weights_gradient
A6 Convolution | depthwiseConvolution2D | depthwise_conv2d=convolution
A6 Convolution | depthwiseConvolution2D gradients | depthwise_conv2d_data_gradient=convolution_data_gradient, depthwise_conv2d_weights_gradient=convolution_weights_gradient
A6 Convolution | depthwiseConvolution3D | depthwise_conv3d=convolution
A6 Convolution | depthwiseConvolution3D gradients | depthwise_conv3d_data_gradient=convolution_data_gradient, depthwise_conv3d_weights_gradient=convolution_weights_gradient
A6 Convolution | imToCol | unfold
A6 Convolution | colToIm | fold
A7 Matrix | matrixMultiplication | matmul
A7 Matrix | HammingDistance | hamming_distance
A7 Matrix | scaledDotProductAttention | scaled_dot_product_attention=attention
A7 Matrix | inverse | inverse=solve
A7 Matrix | bandPart | band_part
A8 Normalisation | mean | mean=reduce_mean
A8 Normalisation | variance | variance
A8 Normalisation | normalization and gradients | normalise
A8 Normalisation | softMaxCrossEntropy and gradient | softmax_cross_entropy
A8 Normalisation | stochasticGradientDescent | sgd
A8 Normalisation | applyStochasticGradientDescent | sgd, Variable.assign
A8 Normalisation | adam (both forms) | adam
A9 Pooling | maxPooling2D | max_pool2d=max_pool
A9 Pooling | avgPooling2D | average_pool2d=average_pool
A9 Pooling | maxPooling2DReturnIndices | max_pool2d=max_pool (return_indices=)
A9 Pooling | maxPooling2D gradients | max_pool2d_gradient=max_pool_gradient, max_pool2d_gradient_by_indices
A9 Pooling | avgPooling2D gradient | average_pool2d_gradient=average_pool_gradient
A9 Pooling | maxPooling4D, return indices | max_pool4d=max_pool
A9 Pooling | maxPooling4D gradients | max_pool4d_gradient=max_pool_gradient, max_pool4d_gradient_by_indices
A9 Pooling | avgPooling4D and gradient | average_pool4d=average_pool, average_pool4d_gradient
A9 Pooling | L2NormPooling4D and gradient | lp_pool4d=lp_pool, lp_pool4d_gradient
A10 Reductions and order | reductionSum | sum=reduce_sum
A10 Reductions and order | reductionMaximum, propagating NaN | max=reduce_max
A10 Reductions and order | reductionMinimum, propagating NaN | min=reduce_min
A10 Reductions and order | reductionProduct | prod=reduce_prod
A10 Reductions and order | reductionArgMaximum | argmax
A10 Reductions and order | reductionArgMinimum | argmin
A10 Reductions and order | reductionAnd | all=reduce_all
A10 Reductions and order | reductionOr | any=reduce_any
A10 Reductions and order | cumulativeSum | cumulative_sum
A10 Reductions and order | cumulativeProduct | cumulative_prod
A10 Reductions and order | cumulativeMinimum | cumulative_min
A10 Reductions and order | cumulativeMaximum | cumulative_max
A10 Reductions and order | sort | sort
A10 Reductions and order | argSort | argsort
A10 Reductions and order | topK and gradient | top_k
A10 Reductions and order | bottomK and gradient | bottom_k=top_k
A10 Reductions and order | nonZeroIndices | non_zero
A10 Reductions and order | nonMaximumSuppression | non_maximum_suppression
A11 Gather and scatter | gather | gather
A11 Gather and scatter | gatherND | gather_nd
A11 Gather and scatter | gatherAlongAxis | gather_along_axis
A11 Gather and scatter | scatterND | scatter_nd
A11 Gather and scatter | scatter | scatter
A11 Gather and scatter | scatterAlongAxis | scatter_along_axis
A11 Gather and scatter | MPSGraphScatterMode | scatter (mode=)
A11 Gather and scatter | oneHot | one_hot
A12 Shape | reshape | reshape
A12 Shape | transpose (dimensions) | swap_axes
A12 Shape | transpose (permutation) | transpose
A12 Shape | slice (one axis) | narrow=slice
A12 Shape | slice (starts, ends, strides, masks) | strided_slice=slice
A12 Shape | slice (tensors) | dynamic_slice
A12 Shape | sliceGradient | slice (by Graph.gradients)
A12 Shape | sliceUpdate | strided_slice_update=slice_update, dynamic_update_slice
A12 Shape | concat, interleave | concat
A12 Shape | split | split
A12 Shape | stack | stack
A12 Shape | tile and gradient | tile
A12 Shape | pad and gradient | pad
A12 Shape | broadcast | broadcast_to
A12 Shape | expandDims | expand_dims
A12 Shape | squeeze | squeeze
A12 Shape | flatten2D | flatten
A12 Shape | reverse | reverse
A12 Shape | shapeOf | shape_of
A12 Shape | cast | cast
A12 Shape | reinterpretCast | bitcast
A12 Shape | spaceToDepth2D | space_to_depth
A12 Shape | depthToSpace2D | depth_to_space
A12 Shape | spaceToBatch | space_to_batch
A12 Shape | batchToSpace | batch_to_space
A12 Shape | coordinateAlongAxis | coordinate
A13 Resize | resize (nearest, bilinear) | resize, interpolate=resize
A13 Resize | resizeNearest with rounding mode | resize
A13 Resize | resize with scale and offset | resize
A13 Resize | resize gradients | resize (by Graph.gradients)
A13 Resize | sampleGrid | grid_sample
A14 Random | MPSGraphRandomOpDescriptor | random_uniform, random_normal, random_truncated_normal, random_integers
A14 Random | randomPhiloxStateTensor | random_state
A14 Random | randomTensor (seed, state) | random_uniform, random_normal, random_truncated_normal, random_integers
A14 Random | randomUniformTensor | random_uniform
A14 Random | dropout | dropout
A15 Recurrent | singleGateRNN and gradients | rnn=loop
A15 Recurrent | LSTM and gradients | lstm=loop
A15 Recurrent | GRU and gradients | gru=loop
A16 Fourier | fastFourierTransform | fft=fourier, ifft=fourier
A16 Fourier | realToHermiteanFFT | rfft=real_fourier
A16 Fourier | HermiteanToRealFFT | irfft=hermitian_fourier
A17 Quantization and sparse | quantize | quantize
A17 Quantization and sparse | dequantize (scalar, per axis, block) | dequantize
A17 Quantization and sparse | dequantize (lookup table, vectors) | dequantize_lut
A17 Quantization and sparse | sparseTensor | sparse_tensor, sparse_matmul
A18 Stencil | stencil | stencil
"""
