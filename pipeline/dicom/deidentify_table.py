"""What becomes of each attribute when an image is de-identified: the actions of PS3.15 table E.1-1, as an allow-list.

An attribute that is not named here is removed (X), as are private attributes, curves, overlays and group lengths.
Named are the attributes of the image modules of PS3.3 that hold numbers, codes, UIDs, dates or the vocabulary of
devices; where table E.1-1 leaves a choice (X/Z/D), the strictest action is taken that keeps an image valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import Final

from pydicom.datadict import tag_for_keyword


class Action(StrEnum):
    """The action codes of PS3.15 section E.3; what has no action is removed, code X."""

    KEEP = "K"  #: As it is, once its value is what its representation allows; sequences are cleaned item by item.
    CLEAN = "C"  #: Dates are moved; ages above 89 years become 90.
    EMPTY = "Z"  #: The attribute stays without a value.
    DUMMY = "D"  #: A value that says nothing; an empty one stays empty.
    UID = "U"  #: A keyed UID, the same wherever the original stands; UIDs that DICOM registers stay.
    PSEUDONYM = "P"  #: The dummy of a patient's name and ID, one per patient.


@cache
def actions(*, modified_dates: bool, patient_characteristics: bool) -> Mapping[int, Action]:
    """The action on each attribute that is not removed, by tag, under the basic profile with these two options."""
    found = dict.fromkeys(_KEPT, Action.KEEP)
    found |= dict.fromkeys(_UIDS, Action.UID)
    found |= dict.fromkeys(_EMPTIED, Action.EMPTY) | dict.fromkeys(_DUMMIES, Action.DUMMY)
    found |= dict.fromkeys(_PSEUDONYMS, Action.PSEUDONYM)
    if modified_dates:
        found |= dict.fromkeys((*_DATES_EMPTIED, *_DATES_DUMMIES, *_DATES_REMOVED), Action.CLEAN)
    else:
        found |= dict.fromkeys(_DATES_EMPTIED, Action.EMPTY) | dict.fromkeys(_DATES_DUMMIES, Action.DUMMY)
    if patient_characteristics:
        found |= dict.fromkeys(_CHARACTERISTICS, Action.KEEP) | {"PatientAge": Action.CLEAN}
    else:
        found["PatientSex"] = Action.EMPTY
    return MappingProxyType({_tag(keyword): action for keyword, action in found.items()})


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


def _keywords(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_PSEUDONYMS: Final = ("PatientName", "PatientID")
_CHARACTERISTICS: Final = ("PatientSex", "PatientSize", "PatientWeight")

_EMPTIED: Final = _keywords(
    """
    AccessionNumber ReferringPhysicianName PatientBirthDate StudyID PositionReferenceIndicator
    AcquisitionContextSequence ASLTechniqueDescription ASLBolusCutoffTechnique ContentDescription ContentCreatorName
"""
)

#: Free text and identifiers of devices that an image may not lack.
_DUMMIES: Final = _keywords(
    """
    ContrastBolusAgent DeviceSerialNumber DetectorID XRaySourceID XRayDetectorID AcquisitionProtocolName
    ExposureControlModeDescription PaddleDescription PixelSpacingCalibrationDescription LUTExplanation LUTLabel
    MetaboliteMapDescription ASLCrusherDescription ContentLabel
"""
)

#: Dates and times by what becomes of them where dates are not kept modified.
_DATES_EMPTIED: Final = _keywords("StudyDate StudyTime AcquisitionDate AcquisitionTime")
_DATES_DUMMIES: Final = _keywords(
    """
    InstanceCreationDate InstanceCreationTime SeriesDate SeriesTime ContentDate ContentTime AcquisitionDateTime
    DateOfLastDetectorCalibration TimeOfLastDetectorCalibration FrameAcquisitionDateTime FrameReferenceDateTime
    SourceStartDateTime SourceEndDateTime StartAcquisitionDateTime EndAcquisitionDateTime FunctionalSyncPulse
    DecayCorrectionDateTime ExclusionStartDateTime
"""
)
_DATES_REMOVED: Final = _keywords(
    """
    DateOfSecondaryCapture TimeOfSecondaryCapture ContrastBolusStartTime ContrastBolusStopTime
    RadiopharmaceuticalStartTime RadiopharmaceuticalStopTime RadiopharmaceuticalStartDateTime
    RadiopharmaceuticalStopDateTime DateOfLastCalibration TimeOfLastCalibration PerformedProcedureStepStartDate
    PerformedProcedureStepStartTime PerformedProcedureStepEndDate PerformedProcedureStepEndTime
"""
)

_UIDS: Final = _keywords(
    """
    SOPClassUID RelatedGeneralSOPClassUID OriginalSpecializedSOPClassUID ReferencedSOPClassUID ContextUID
    SOPInstanceUID StudyInstanceUID SeriesInstanceUID AcquisitionUID PyramidUID FrameOfReferenceUID
    ReferencedFrameOfReferenceUID VolumeFrameOfReferenceUID TableFrameOfReferenceUID
    SynchronizationFrameOfReferenceUID ConcatenationUID SOPInstanceUIDOfConcatenationSource
    DimensionOrganizationUID ReferencedSOPInstanceUID IrradiationEventUID
    RadiopharmaceuticalAdministrationEventUID PaletteColorLookupTableUID LargePaletteColorLookupTableUID
"""
)

#: Text whose vocabulary is that of devices and of code systems, not of people.
_TEXT: Final = _keywords(
    """
    CodeValue CodingSchemeDesignator CodingSchemeVersion CodeMeaning LongCodeValue Manufacturer
    ManufacturerModelName SoftwareVersions SequenceName PulseSequenceName ImagedNucleus FilterType TypeOfFilters
    ImageFilter CollimatorGridName ConvolutionKernel ReceiveCoilName TransmitCoilName MultiCoilElementName
    ReceiveCoilManufacturerName TransmitCoilManufacturerName PlateType PhosphorType AcquisitionDeviceProcessingCode
    TriggerSourceOrType CardiacFramingType ApplicationName ApplicationVersion ApplicationManufacturer StackID
    RescaleType ModalityLUTType AttenuationCorrectionMethod ReconstructionMethod ScatterCorrectionMethod
"""
)

_TABLES: Final = _keywords(
    """
    RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData
    AlphaPaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData
    SegmentedGreenPaletteColorLookupTableData SegmentedBluePaletteColorLookupTableData BlendingLookupTableData
    LUTData ExtendedOffsetTable ExtendedOffsetTableLengths
"""
)

_CODES: Final = _keywords(
    """
    ImageType SyntheticData Modality ConversionType PresentationIntentType FrameType PixelPresentation
    VolumetricProperties VolumeBasedCalculationTechnique ComplexImageComponent AcquisitionContrast
    SkipFrameRangeFlag AnatomicalOrientationType BodyPartExamined ScanningSequence SequenceVariant ScanOptions
    MRAcquisitionType AngioFlag AcquisitionTerminationCondition AcquisitionStartCondition ContrastBolusIngredient
    BeatRejectionFlag TableMotion TableType RotationDirection FieldOfViewShape RadiationSetting RectificationType
    RadiationMode Grid CollimatorType AnodeTargetMaterial WholeBodyTechnique InPlanePhaseEncodingDirection
    VariableFlipAngleFlag CassetteOrientation CassetteSize TomoType TomoClass PositionerMotion PositionerType
    ShutterShape CollimatorShape DigitizingDeviceTransportDirection IVUSAcquisition PatientPosition ViewPosition
    TransducerType DetectorConditionsNominalFlag DetectorType DetectorConfiguration DetectorActiveShape
    FieldOfViewHorizontalFlip FilterMaterial ExposureControlMode ExposureStatus ContentQualification
    EchoPulseSequence InversionRecovery FlowCompensation MultipleSpinEcho MultiPlanarExcitation PhaseContrast
    TimeOfFlightContrast Spoiling SteadyStatePulseSequence EchoPlanarPulseSequence MagnetizationTransfer
    T2Preparation BloodSignalNulling SaturationRecovery SpectrallySelectedSuppression SpectrallySelectedExcitation
    SpatialPresaturation Tagging OversamplingPhase GeometryOfKSpaceTraversal SegmentedKSpaceTraversal
    RectilinearPhaseEncodeReordering PartialFourierDirection CardiacSynchronizationTechnique ReceiveCoilType
    QuadratureReceiveCoil MultiCoilElementUsed TransmitCoilType KSpaceFiltering DiffusionDirectionality
    ParallelAcquisition ParallelAcquisitionTechnique PartialFourier CardiacSignalSource CoverageOfKSpace
    ResonantNucleus DiffusionAnisotropyType CardiacBeatRejectionTechnique RespiratoryMotionCompensationTechnique
    RespiratorySignalSource BulkMotionCompensationTechnique BulkMotionSignalSource ApplicableSafetyStandardAgency
    OperatingModeType OperatingMode SpecificAbsorptionRateDefinition GradientOutputType FlowCompensationDirection
    RespiratoryCyclePosition CardiacCyclePosition ArterialSpinLabelingContrast ASLContext ASLCrusherFlag
    ASLBolusCutoffFlag AcquisitionType ReconstructionAlgorithm ConvolutionKernelGroup ExposureModulationType
    ConstantVolumeFlag FluoroscopyFlag ContrastBolusAgentAdministered ContrastBolusAgentDetected
    ContrastBolusAgentPhase MultienergyCTAcquisition MultienergySourceTechnique MultienergyDetectorType
    DecompositionMethod PlanesInAcquisition XRayReceptorType ContrastBolusIngredientOpaque IntensifierActiveShape
    ExposureControlSensingRegionShape PlaneIdentification CArmPositionerTabletopRelationship AlgorithmType
    PositionerPrimaryAngleDirection FunctionalSettlingPhaseFramesPresent SettlingPhaseFrame DetectorGeometry
    AttenuationCorrectionSource TimeOfFlightInformationUsed ReconstructionType DecayCorrected AttenuationCorrected
    ScatterCorrected DeadTimeCorrected GantryMotionCorrected PatientMotionCorrected CountLossNormalizationCorrected
    RandomsCorrected NonUniformRadialSamplingCorrected SensitivityCalibrated DetectorNormalizationCorrection
    IterativeReconstructionMethod AttenuationCorrectionTemporalRelationship DataType AliasedDataType
    PositionMeasuringDeviceUsed PatientOrientation Laterality ImageLaterality FrameLaterality
    StartingRespiratoryPhase EndingRespiratoryPhase RespiratoryTriggerType UltrasoundAcquisitionGeometry
    VolumeToTransducerRelationship PatientFrameOfReferenceSource DimensionOrganizationType StereoPairsPresent
    PhotometricInterpretation CorrectedImage QualityControlImage BurnedInAnnotation RecognizableVisualFeatures
    PixelSpacingCalibrationType PixelIntensityRelationship VOILUTFunction RecommendedViewingMode
    BreastImplantPresent PartialView SpatialLocationsPreserved DataPathAssignment BlendingLUT1TransferFunction
    BlendingLUT2TransferFunction DataPathID RGBLUTTransferFunction AlphaLUTTransferFunction ColorSpace
    LossyImageCompression LossyImageCompressionMethod MaskOperation GeometricalProperties ImageProcessingApplied
    MaskSelectionMode LUTFunction OrganExposed EntranceDoseDerivation CalibrationImage PhaseDescription
    TypeOfDetectorMotion SliceProgressionDirection ScanProgressionDirection SeriesType Units CountsSource
    ReprojectionMethod SUVType RandomsCorrectionMethod DecayCorrection SecondaryCountsType PresentationLUTShape
"""
)

_NUMBERS: Final = _keywords(
    """
    ReferencedFrameNumber StageNumber NumberOfStages ViewNumber NumberOfViewsInStage StartTrim StopTrim
    RecommendedDisplayFrameRate RecommendedDisplayFrameRateInFloat ExaminedBodyThickness ContrastBolusT1Relaxivity
    CineRate SliceThickness KVP CountsAccumulated EffectiveDuration AcquisitionStartConditionData
    AcquisitionTerminationConditionData RepetitionTime EchoTime InversionTime NumberOfAverages ImagingFrequency
    EchoNumbers MagneticFieldStrength SpacingBetweenSlices NumberOfPhaseEncodingSteps DataCollectionDiameter
    EchoTrainLength PercentSampling PercentPhaseFieldOfView PixelBandwidth ContrastBolusVolume
    ContrastBolusTotalDose ContrastFlowRate ContrastFlowDuration ContrastBolusIngredientConcentration
    SpatialResolution TriggerTime NominalInterval FrameTime FrameTimeVector FrameDelay ImageTriggerDelay
    RadiopharmaceuticalVolume RadionuclideTotalDose RadionuclideHalfLife RadionuclidePositronFraction
    RadiopharmaceuticalSpecificActivity LowRRValue HighRRValue IntervalsAcquired IntervalsRejected SkipBeats
    HeartRate CardiacNumberOfImages TriggerWindow ReconstructionDiameter DistanceSourceToDetector
    DistanceSourceToPatient EstimatedRadiographicMagnificationFactor GantryDetectorTilt GantryDetectorSlew
    TableHeight TableTraverse TableVerticalIncrement TableLateralIncrement TableLongitudinalIncrement TableAngle
    RadialPosition ScanArc AngularStep CenterOfRotationOffset FieldOfViewDimensions ExposureTime XRayTubeCurrent
    Exposure ExposureInuAs AveragePulseWidth ImageAndFluoroscopyAreaDoseProduct IntensifierSize ImagerPixelSpacing
    GeneratorPower FocalDistance XFocusCenter YFocusCenter FocalSpots BodyPartThickness CompressionForce
    CompressionPressure CompressionContactArea ActualFrameDuration CountRate PreferredPlaybackSequencing
    WaterEquivalentDiameter ScanVelocity ScanLength AcquisitionMatrix FlipAngle SAR dBdt B1rms ExposuresOnPlate
    RelativeXRayExposure ExposureIndex TargetExposureIndex DeviationIndex ColumnAngulation TomoLayerHeight TomoAngle
    TomoTime NumberOfTomosynthesisSourceImages PositionerPrimaryAngle PositionerSecondaryAngle
    PositionerPrimaryAngleIncrement PositionerSecondaryAngleIncrement DetectorPrimaryAngle DetectorSecondaryAngle
    ShutterLeftVerticalEdge ShutterRightVerticalEdge ShutterUpperHorizontalEdge ShutterLowerHorizontalEdge
    CenterOfCircularShutter RadiusOfCircularShutter VerticesOfThePolygonalShutter ShutterPresentationValue
    ShutterPresentationColorCIELabValue CollimatorLeftVerticalEdge CollimatorRightVerticalEdge
    CollimatorUpperHorizontalEdge CollimatorLowerHorizontalEdge CenterOfCircularCollimator
    RadiusOfCircularCollimator VerticesOfThePolygonalCollimator PageNumberVector FramePrimaryAngleVector
    FrameSecondaryAngleVector SliceLocationVector NominalScannedPixelSpacing RotationOfScannedFilm IVUSPullbackRate
    IVUSGatedRate IVUSPullbackStartFrameNumber IVUSPullbackStopFrameNumber LesionNumber FocusDepth MechanicalIndex
    BoneThermalIndex CranialThermalIndex SoftTissueThermalIndex SoftTissueFocusThermalIndex
    SoftTissueSurfaceThermalIndex DepthOfScanField Sensitivity RegionSpatialFormat RegionDataType RegionFlags
    RegionLocationMinX0 RegionLocationMinY0 RegionLocationMaxX1 RegionLocationMaxY1 ReferencePixelX0
    ReferencePixelY0 PhysicalUnitsXDirection PhysicalUnitsYDirection ReferencePixelPhysicalValueX
    ReferencePixelPhysicalValueY PhysicalDeltaX PhysicalDeltaY TransducerFrequency PulseRepetitionFrequency
    DopplerCorrectionAngle SteeringAngle DopplerSampleVolumeXPosition DopplerSampleVolumeYPosition TMLinePositionX0
    TMLinePositionY0 TMLinePositionX1 TMLinePositionY1 PixelComponentOrganization PixelComponentMask
    PixelComponentRangeStart PixelComponentRangeStop PixelComponentPhysicalUnits PixelComponentDataType
    NumberOfTableBreakPoints TableOfXBreakPoints TableOfYBreakPoints NumberOfTableEntries TableOfPixelValues
    TableOfParameterValues RWaveTimeVector DetectorTemperature DetectorActiveTime
    DetectorActivationOffsetFromExposure DetectorBinning DetectorElementPhysicalSize DetectorElementSpacing
    DetectorActiveDimensions DetectorActiveOrigin FieldOfViewOrigin FieldOfViewRotation
    PixelDataAreaOriginRelativeToFOV PixelDataAreaRotationAngleRelativeToFOV GridThickness GridPitch GridAspectRatio
    GridPeriod GridFocalDistance FilterThicknessMinimum FilterThicknessMaximum FilterBeamPathLengthMinimum
    FilterBeamPathLengthMaximum PhototimerSetting ExposureTimeInuS XRayTubeCurrentInuA TagAngleFirstAxis
    TagSpacingFirstDimension TagThickness MRAcquisitionFrequencyEncodingSteps ParallelReductionFactorInPlane
    CardiacRRIntervalSpecified AcquisitionDuration InversionTimes EffectiveEchoTime DiffusionBValue
    DiffusionGradientOrientation VelocityEncodingDirection VelocityEncodingMinimumValue NumberOfKSpaceTrajectories
    TransmitterFrequency SlabThickness SlabOrientation MidSlabPosition ParallelReductionFactorOutOfPlane
    ParallelReductionFactorSecondInPlane SpecificAbsorptionRateValue GradientOutput TaggingDelay
    VelocityEncodingMaximumValue TagSpacingSecondDimension TagAngleSecondAxis FrameAcquisitionDuration
    MRAcquisitionPhaseEncodingStepsInPlane MRAcquisitionPhaseEncodingStepsOutOfPlane RFEchoTrainLength
    GradientEchoTrainLength ASLSlabNumber ASLSlabThickness ASLSlabOrientation ASLMidSlabPosition
    ASLPulseTrainDuration ASLCrusherFlowLimit ASLBolusCutoffDelayTime ChemicalShiftMinimumIntegrationLimitInppm
    ChemicalShiftMaximumIntegrationLimitInppm TubeAngle RevolutionTime SingleCollimationWidth TotalCollimationWidth
    TableSpeed TableFeedPerRotation SpiralPitchFactor DataCollectionCenterPatient ReconstructionFieldOfView
    ReconstructionTargetCenterPatient ReconstructionAngle ReconstructionPixelSpacing TablePosition ExposureTimeInms
    XRayTubeCurrentInmA ExposureInmAs DistanceSourceToDataCollectionCenter ContrastBolusAgentNumber CTDIvol
    CalciumScoringMassFactorPatient CalciumScoringMassFactorDevice EnergyWeightingFactor XRaySourceIndex
    SwitchingPhaseNumber SwitchingPhaseNominalDuration SwitchingPhaseTransitionDuration EffectiveBinEnergy
    XRayDetectorIndex NominalMaxEnergy NominalMinEnergy ReferencedXRayDetectorIndex ReferencedXRaySourceIndex
    ReferencedPathIndex MultienergyCTPathIndex MonoenergeticEnergyEquivalent PhotonEnergy
    XRayMassAttenuationCoefficient DistanceSourceToIsocenter DistanceObjectToTableTop
    ObjectPixelSpacingInCenterOfBeam DistanceReceptorPlaneToDetectorHousing IntensifierActiveDimensions
    PhysicalDetectorSize PositionOfIsocenterProjection ExposureControlSensingRegionLeftVerticalEdge
    ExposureControlSensingRegionRightVerticalEdge ExposureControlSensingRegionUpperHorizontalEdge
    ExposureControlSensingRegionLowerHorizontalEdge CenterOfCircularExposureControlSensingRegion
    RadiusOfCircularExposureControlSensingRegion VerticesOfThePolygonalExposureControlSensingRegion
    ColumnAngulationPatient BeamAngle CalculatedAnatomyThickness FieldOfViewDimensionsInFloat
    PositionerIsocenterPrimaryAngle PositionerIsocenterSecondaryAngle PositionerIsocenterDetectorRotationAngle
    TableXPositionToIsocenter TableYPositionToIsocenter TableZPositionToIsocenter TableHorizontalRotationAngle
    TableHeadTiltAngle TableCradleTiltAngle AcquiredImageAreaDoseProduct PrimaryPositionerScanArc
    SecondaryPositionerScanArc PrimaryPositionerScanStartAngle SecondaryPositionerScanStartAngle
    PrimaryPositionerIncrement SecondaryPositionerIncrement PrimaryPositionerIncrementSign
    SecondaryPositionerIncrementSign XRaySourceIsocenterPrimaryAngle XRaySourceIsocenterSecondaryAngle
    BreastSupportIsocenterPrimaryAngle BreastSupportIsocenterSecondaryAngle BreastSupportXPositionToIsocenter
    BreastSupportYPositionToIsocenter BreastSupportZPositionToIsocenter DetectorIsocenterPrimaryAngle
    DetectorIsocenterSecondaryAngle DetectorXPositionToIsocenter DetectorYPositionToIsocenter
    DetectorZPositionToIsocenter DetectorActiveAreaTLHCPosition DetectorActiveAreaOrientation DiffusionBValueXX
    DiffusionBValueXY DiffusionBValueXZ DiffusionBValueYY DiffusionBValueYZ DiffusionBValueZZ StartDensityThreshold
    StartRelativeDensityDifferenceThreshold StartCardiacTriggerCountThreshold StartRespiratoryTriggerCountThreshold
    TerminationCountsThreshold TerminationDensityThreshold TerminationRelativeDensityThreshold
    TerminationTimeThreshold TerminationCardiacTriggerCountThreshold TerminationRespiratoryTriggerCountThreshold
    TransverseDetectorSeparation AxialDetectorDimension RadiopharmaceuticalAgentNumber NumberOfIterations
    NumberOfSubsets DepthsOfFocus ExclusionDuration ZeroVelocityPixelValue SeriesNumber AcquisitionNumber
    InstanceNumber ImagePositionPatient ImageOrientationPatient TemporalPositionIdentifier NumberOfTemporalPositions
    TemporalResolution ImagesInAcquisition SliceLocation InStackPositionNumber TemporalPositionIndex
    NominalCardiacTriggerDelayTime NominalCardiacTriggerTimePriorToRPeak ActualCardiacTriggerTimePriorToRPeak
    FrameAcquisitionNumber DimensionIndexValues InConcatenationNumber InConcatenationTotalNumber
    DimensionIndexPointer FunctionalGroupPointer ConcatenationFrameOffsetNumber NominalPercentageOfCardiacPhase
    NominalPercentageOfRespiratoryPhase StartingRespiratoryAmplitude EndingRespiratoryAmplitude
    RRIntervalTimeNominal ActualCardiacTriggerDelayTime RespiratoryIntervalTime NominalRespiratoryTriggerDelayTime
    RespiratoryTriggerDelayThreshold ActualRespiratoryTriggerDelayTime ImagePositionVolume ImageOrientationVolume
    ApexPosition VolumeToTransducerMappingMatrix VolumeToTableMappingMatrix TemporalPositionTimeOffset
    AcquisitionIndex ReconstructionIndex SamplesPerPixel PlanarConfiguration NumberOfFrames FrameIncrementPointer
    FrameDimensionPointer Rows Columns UltrasoundColorDataPresent PixelSpacing ZoomFactor ZoomCenter
    PixelAspectRatio BitsAllocated BitsStored HighBit PixelRepresentation SmallestImagePixelValue
    LargestImagePixelValue SmallestPixelValueInSeries LargestPixelValueInSeries PixelPaddingValue
    PixelPaddingRangeLimit FloatPixelPaddingValue DoubleFloatPixelPaddingValue FloatPixelPaddingRangeLimit
    DoubleFloatPixelPaddingRangeLimit PixelIntensityRelationshipSign WindowCenter WindowWidth RescaleIntercept
    RescaleSlope RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor
    BluePaletteColorLookupTableDescriptor AlphaPaletteColorLookupTableDescriptor MinimumStoredValueMapped
    MaximumStoredValueMapped BitsMappedToColorLookupTable BlendingWeightConstant BlendingLookupTableDescriptor
    LossyImageCompressionRatio LUTDescriptor RepresentativeFrameNumber FrameNumbersOfInterest RWavePointer
    ApplicableFrameRange MaskFrameNumbers ContrastFrameAveraging MaskSubPixelShift DisplayFilterPercentage
    SubtractionItemID GeometricMaximumDistortion MaskVisibilityPercentage ImageToEquipmentMappingMatrix EntranceDose
    ExposedArea DistanceSourceToEntrance XRayOutput HalfValueLayer OrganDose EntranceDoseInmGy
    RealWorldValueLastValueMapped RealWorldValueLUTData DoubleFloatRealWorldValueLastValueMapped
    DoubleFloatRealWorldValueFirstValueMapped RealWorldValueFirstValueMapped RealWorldValueIntercept
    RealWorldValueSlope ContrastBolusIngredientPercentByVolume EnergyWindowVector NumberOfEnergyWindows
    EnergyWindowLowerLimit EnergyWindowUpperLimit DetectorVector NumberOfDetectors PhaseVector NumberOfPhases
    NumberOfFramesInPhase PhaseDelay PauseBetweenFrames RotationVector NumberOfRotations NumberOfFramesInRotation
    RRIntervalVector NumberOfRRIntervals TimeSlotVector NumberOfTimeSlots TimeSlotTime SliceVector NumberOfSlices
    AngularViewVector TimeSliceVector NumberOfTimeSlices StartAngle TriggerVector NumberOfTriggersInPhase
    AxialAcceptance AxialMash TransverseMash DetectorElementSize CoincidenceWindowWidth FrameReferenceTime
    PrimaryPromptsCountsAccumulated SecondaryCountsAccumulated SliceSensitivityFactor DecayFactor
    DoseCalibrationFactor ScatterFractionFactor DeadTimeFactor ImageIndex Illumination ReflectedAmbientLight
    EncapsulatedPixelDataValueTotalLength
"""
)

_SEQUENCES: Final = _keywords(
    """
    ReferencedSeriesSequence ReferencedImageSequence ReferencedInstanceSequence ReferencedSOPSequence
    SourceImageSequence AnatomicRegionSequence AnatomicRegionModifierSequence PrimaryAnatomicStructureSequence
    PrimaryAnatomicStructureModifierSequence SourceIrradiationEventSequence ReferencedImageEvidenceSequence
    DerivationImageSequence SourceImageEvidenceSequence DerivationCodeSequence ReferencedOtherPlaneSequence
    FrameDisplaySequence ContrastBolusAgentSequence ContrastBolusAdministrationRouteSequence
    WaterEquivalentDiameterCalculationMethodCodeSequence SequenceOfUltrasoundRegions MRImagingModifierSequence
    MRReceiveCoilSequence MultiCoilDefinitionSequence MRTransmitCoilSequence DiffusionGradientDirectionSequence
    MetaboliteMapCodeSequence ChemicalShiftSequence VelocityEncodingAcquisitionSequence MRSpatialSaturationSequence
    MRTimingAndRelatedParametersSequence MREchoSequence MRModifierSequence MRDiffusionSequence
    CardiacSynchronizationSequence MRAveragesSequence MRFOVGeometrySequence MRMetaboliteMapSequence
    OperatingModeSequence MRVelocityEncodingSequence MRImageFrameTypeSequence SpecificAbsorptionRateSequence
    MRArterialSpinLabelingSequence ASLBolusCutoffTimingSequence ASLSlabSequence CTAcquisitionTypeSequence
    CTAcquisitionDetailsSequence CTTableDynamicsSequence CTGeometrySequence CTReconstructionSequence
    CTExposureSequence CTXRayDetailsSequence CTPositionSequence CTImageFrameTypeSequence
    ContrastBolusIngredientCodeSequence ContrastAdministrationProfileSequence ContrastBolusUsageSequence
    CTDIPhantomTypeCodeSequence CTAdditionalXRaySourceSequence MultienergyCTAcquisitionSequence
    MultienergyCTProcessingSequence MultienergyCTCharacteristicsSequence MultienergyCTXRaySourceSequence
    MultienergyCTXRayDetectorSequence MultienergyCTPathSequence MaterialCodeSequence DecompositionMaterialSequence
    MaterialAttenuationSequence ProjectionPixelCalibrationSequence PositionerPositionSequence TablePositionSequence
    CollimatorShapeSequence XAXRFFrameCharacteristicsSequence FrameAcquisitionSequence FieldOfViewSequence
    ExposureControlSensingRegionsSequence FrameDetectorParametersSequence CalibrationSequence
    ObjectThicknessSequence IsocenterReferenceSystemSequence FrameDisplayShutterSequence XRayGeometrySequence
    IrradiationEventIdentificationSequence XRay3DFrameTypeSequence ContributingSourcesSequence
    XRay3DAcquisitionSequence XRay3DReconstructionSequence PerProjectionAcquisitionSequence DetectorPositionSequence
    XRayAcquisitionDoseSequence XRayGridSequence XRayFilterSequence DiffusionBMatrixSequence FunctionalMRSequence
    PETFrameAcquisitionSequence PETDetectorMotionDetailsSequence PETTableDynamicsSequence PETPositionSequence
    PETFrameCorrectionFactorsSequence RadiopharmaceuticalUsageSequence PETReconstructionSequence
    PETFrameTypeSequence PatientPhysiologicalStateSequence PatientPhysiologicalStateCodeSequence
    ExcludedIntervalsSequence USImageDescriptionSequence ImageDataTypeSequence TransducerScanPatternCodeSequence
    TransducerGeometryCodeSequence TransducerBeamSteeringCodeSequence TransducerApplicationCodeSequence
    FrameAnatomySequence FrameContentSequence PlanePositionSequence PlaneOrientationSequence
    UnassignedSharedConvertedAttributesSequence UnassignedPerFrameConvertedAttributesSequence
    ConversionSourceAttributesSequence DimensionOrganizationSequence DimensionIndexSequence
    RespiratorySynchronizationSequence PlanePositionVolumeSequence PlaneOrientationVolumeSequence
    TemporalPositionSequence PatientOrientationInFrameSequence ContributingSOPInstancesReferenceSequence
    StoredValueColorRangeSequence PartialViewCodeSequence DataFrameAssignmentSequence BlendingLUT1Sequence
    EnhancedPaletteColorLookupTableSequence BlendingLUT2Sequence ModalityLUTSequence VOILUTSequence
    MaskSubtractionSequence PixelMeasuresSequence FrameVOILUTSequence PixelValueTransformationSequence
    FramePixelShiftSequence PixelIntensityRelationshipLUTSequence FramePixelDataPropertiesSequence
    MeasurementUnitsCodeSequence ParametricMapFrameTypeSequence RealWorldValueMappingSequence
    PixelValueMappingCodeSequence PurposeOfReferenceCodeSequence EnergyWindowInformationSequence
    EnergyWindowRangeSequence RadiopharmaceuticalInformationSequence DetectorInformationSequence
    PhaseInformationSequence RotationInformationSequence GatedInformationSequence DataInformationSequence
    TimeSlotInformationSequence ViewCodeSequence ViewModifierCodeSequence RadionuclideCodeSequence
    AdministrationRouteCodeSequence RadiopharmaceuticalCodeSequence PatientOrientationCodeSequence
    PatientOrientationModifierCodeSequence PatientGantryRelationshipCodeSequence SharedFunctionalGroupsSequence
    PerFrameFunctionalGroupsSequence
"""
)

_KEPT: Final = (*_TEXT, *_TABLES, *_CODES, *_NUMBERS, *_SEQUENCES)
