"""The shape of the human pancreas annotation set that `simulate.py` imitates.

Five studies in the division of the paper (reference: Baron, Muraro; query: Xin, Segerstolpe,
Lawlor), 13 reference and 11 query types. The numbers are the approximate cells per type of those
studies; they set proportions only. Marker genes are common knowledge of the field.

References
----------
Baron et al., Cell Syst 2016, doi:10.1016/j.cels.2016.08.011; Muraro et al., Cell Syst 2016,
doi:10.1016/j.cels.2016.09.002; Xin et al., Cell Metab 2016, doi:10.1016/j.cmet.2016.08.018;
Segerstolpe et al., Cell Metab 2016, doi:10.1016/j.cmet.2016.08.020; Lawlor et al., Genome Res
2017, doi:10.1101/gr.212720.116.
"""

from __future__ import annotations

REFERENCE, QUERY = "reference", "query"

# study -> (subset, counts per cell relative to the others, cells per type)
STUDIES: dict[str, tuple[str, float, dict[str, int]]] = {
    "Baron": (
        REFERENCE,
        0.5,
        {
            "beta": 2525,
            "alpha": 2326,
            "ductal": 1077,
            "acinar": 958,
            "delta": 601,
            "PSC": 457,
            "PP": 255,
            "endothelial": 252,
            "macrophage": 55,
            "mast": 25,
            "epsilon": 18,
            "schwann": 13,
            "t_cell": 7,
        },
    ),
    "Muraro": (
        REFERENCE,
        1.2,
        {
            "alpha": 812,
            "beta": 448,
            "ductal": 245,
            "acinar": 219,
            "delta": 193,
            "PP": 101,
            "PSC": 80,
            "endothelial": 21,
            "epsilon": 3,
        },
    ),
    "Xin": (QUERY, 1.6, {"alpha": 886, "beta": 472, "PP": 85, "delta": 49}),
    "Segerstolpe": (
        QUERY,
        1.0,
        {
            "alpha": 886,
            "ductal": 386,
            "beta": 270,
            "PP": 197,
            "acinar": 185,
            "delta": 114,
            "PSC": 54,
            "endothelial": 16,
            "epsilon": 7,
            "mast": 7,
            "MHC class II": 5,
        },
    ),
    "Lawlor": (
        QUERY,
        1.3,
        {"beta": 264, "alpha": 239, "ductal": 36, "delta": 25, "acinar": 24, "PSC": 19, "PP": 18},
    ),
}

LINEAGES = {
    "endocrine": ("alpha", "beta", "delta", "PP", "epsilon"),
    "exocrine": ("acinar", "ductal"),
    "stromal": ("PSC", "schwann", "endothelial"),
    "immune": ("macrophage", "mast", "t_cell", "MHC class II"),
}

MARKERS = {
    "alpha": "GCG TTR IRX2 ARX GC LOXL4 DPP4 TM4SF4 CRYBA2 PCSK2 FAP PLCE1",
    "beta": "INS IAPP MAFA G6PC2 PDX1 NKX6-1 HADH ADCYAP1 ERO1B SAMD11 PCSK1",
    "delta": "SST LEPR RBP4 HHEX PRG4 BCHE GHSR CBLN4 SEC11C",
    "PP": "PPY MEIS2 ID4 SERTM1 AQP3 ETV1 THSD7A SLITRK6",
    "epsilon": "GHRL ANXA13 SPTSSB VTN NPY1R ACSL1",
    "acinar": "PRSS1 PRSS2 CPA1 CPA2 CTRB1 CTRB2 CELA3A PNLIP REG1A REG3A CLPS CEL",
    "ductal": "KRT19 KRT7 SPP1 CFTR MMP7 SOX9 TACSTD2 ANXA4 SERPING1",
    "PSC": "COL1A1 COL1A2 COL3A1 PDGFRB SPARC LUM DCN TIMP1 THY1 RGS5 BGN",
    "schwann": "S100B PLP1 SOX10 CDH19 CRYAB NGFR GPM6B MPZ",
    "endothelial": "PECAM1 VWF PLVAP CD34 ESAM KDR FLT1 CDH5 SOX18 ENG",
    "macrophage": "CD68 CD14 LYZ TYROBP AIF1 C1QA C1QB C1QC MS4A7 CSF1R",
    "mast": "TPSAB1 TPSB2 CPA3 KIT MS4A2 HPGDS GATA2 FCER1A SLC18A2",
    "t_cell": "CD3D CD3E CD2 TRAC CD8A IL7R CCL5 NKG7 TRBC2",
    "MHC class II": "HLA-DRA HLA-DRB1 HLA-DPA1 HLA-DPB1 HLA-DQA1 HLA-DQB1 HLA-DMA CIITA",
}
LINEAGE_MARKERS = {
    "endocrine": "CHGA CHGB SCGN UCHL1 PTPRN SCG5 VGF PAX6 NEUROD1 ISL1 INSM1 ABCC8 SLC30A8",
    "exocrine": "EPCAM KRT8 KRT18 CLDN4 CLDN7 CDH1",
    "stromal": "VIM",
    "immune": "PTPRC CD74 CD52 FCER1G",
}
